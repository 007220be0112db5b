"""The toolkit: from interaction logs and item texts to a verified device bundle."""
