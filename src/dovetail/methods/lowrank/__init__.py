"""Low rank: methods that put products of smaller weights in the place of one."""
