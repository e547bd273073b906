"""Images enlarged, without noise, and with holes filled."""
