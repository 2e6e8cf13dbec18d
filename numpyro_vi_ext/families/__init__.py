"""Families of approximating distributions q over the flat unconstrained vector."""
