"""Dovetail cuts a neural network and the chip it runs on to fit each other."""
