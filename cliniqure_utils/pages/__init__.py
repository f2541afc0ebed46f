"""Pages that need no network and no script, for a run and for `cliniqure predict`."""
