"""Any2Point: point clouds through a frozen encoder of another modality."""
