"""tensorpress: does tensor decomposition compress your language model usefully?"""
