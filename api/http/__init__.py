"""What all routes share: problems, bodies, correlation, the OpenAPI document."""
