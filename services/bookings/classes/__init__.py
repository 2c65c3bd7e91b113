"""Classes: a service held for several, who take seats in it."""
