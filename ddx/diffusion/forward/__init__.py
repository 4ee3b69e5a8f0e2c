"""How data become noise: processes, their schedules and blurs, and the Gaussians that follow from them."""
