"""An agent's copies of replicated jobs: chunks come from the origin or from peers, and are served to other agents."""
