"""What a batch costs: views, terms, total, GradCache and microbatches. All pure."""
