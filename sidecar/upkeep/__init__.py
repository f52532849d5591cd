"""What runs beside the calls and on no call's path: health, other pods, who is told of trouble, what outlives the process."""
