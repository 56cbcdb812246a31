"""The frozen CLIP: any open_clip model behind one class, its towers, and the embedded default."""
