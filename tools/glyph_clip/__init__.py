"""glyph-clip: the small pretrained model that comes with featcache, and how it is made."""
