"""How D_l decays from layer to layer, and what the theorems say of it."""
