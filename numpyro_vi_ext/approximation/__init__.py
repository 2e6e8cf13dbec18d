"""What a fit returns: a distribution bound to its model, and all it can be asked for."""
