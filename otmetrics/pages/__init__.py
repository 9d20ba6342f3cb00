"""Results as pages of HTML: one file each, with pictures and without scripts."""
