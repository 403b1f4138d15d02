"""The model that trains a student by given losses, the layers that losses need, and what a student looks like."""
