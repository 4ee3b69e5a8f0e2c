"""What ddx runs on: devices, files, signals, progress, pictures, errors."""
