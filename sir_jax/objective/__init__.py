"""The training objective of a batch: views, terms, total, GradCache and microbatches. All pure."""
