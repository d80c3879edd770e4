"""Programs that compute the steps of a training, behind one small interface."""
