"""Running the MAP: the engine, its containers and images, which MAP is live, what a run used, whether two gave the same.

No study is judged here.
"""
