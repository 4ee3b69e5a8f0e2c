"""What training minimises: losses, and the times at which they are evaluated."""
