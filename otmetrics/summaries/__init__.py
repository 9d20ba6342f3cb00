"""What one side of a comparison leaves behind: merged, saved, scored."""
