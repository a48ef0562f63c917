"""What tests share: cases, the tolerance, small models, rules."""
