"""What each rule's job does: one module a rule, called by the workflow script of its name."""
