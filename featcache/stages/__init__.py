"""One public function per command: extract, train, run a pipeline, info."""
