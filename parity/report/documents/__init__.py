"""From a result to a document: what its page says, in order."""
