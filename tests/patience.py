"""How long tests wait for what is bound to come."""

# A test that passes waits a moment. One on a machine that has much else to do waits longer, and is
# no worse a test for it: how fast something is, no test of this kind says.
PATIENCE_S = 60.0
