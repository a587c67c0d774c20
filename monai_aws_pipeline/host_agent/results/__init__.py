"""From the application's outputs to the commit record: judged, measured, drawn, uploaded, decided once."""
