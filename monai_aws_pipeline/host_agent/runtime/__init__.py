"""Running the MAP: the engine, its containers and images, which MAP is live, what a run used. Nothing here reads DICOM."""
