"""How fast the engines are beside their peers, and how the pool of workers scales."""
