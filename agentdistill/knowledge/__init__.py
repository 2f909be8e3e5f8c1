"""The neural-symbolic knowledge base: entry, store, recall, distill (METHOD 2)."""
