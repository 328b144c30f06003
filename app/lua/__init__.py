"""Everything that is atomic in Redis: one Lua file per verb, and the key schema."""
