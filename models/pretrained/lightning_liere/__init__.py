"""A published LieRE checkpoint becomes a checkpoint of this project."""
