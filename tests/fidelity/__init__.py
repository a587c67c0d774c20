"""As hard as AWS: one behaviour of AWS after another, shown on the embedded AWS and lived through by the system.

A behaviour stands in ``register.py``; its tests carry ``@pytest.mark.behaviour(ID)`` and end in ``_embedded`` (the embedded AWS behaves
so) or ``_handled`` (the system lives through it). ``make fidelity`` writes build/fidelity.json; docs/fidelity.md is made from the register.
"""
