"""What floradl answers to those who ask it: FLORA's webhooks, and questions after its health and figures."""
