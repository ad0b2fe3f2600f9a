"""Widgets to walk around in what runs have learnt; import from here, not from `interproto_lib.views`."""
