"""rdp-proxy side by side with HAProxy and nginx, in one run: `make bench`.

`__main__` makes a network of its own, `rounds` plays the scenes through all contenders in turn and
`results` draws the conclusions. The load comes from `load.h` and its C files, compiled on the spot.
docs/performance.md says what each figure means and how to repeat it.
"""
