"""The mathematics: arrays in, arrays out. Knows no network, no file and no device."""
