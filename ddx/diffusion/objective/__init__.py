"""What training minimises: losses, and the times that they are asked at."""
