"""What runs inside the virtual machine."""
