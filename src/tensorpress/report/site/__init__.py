"""All pages of a study, and one for every run, as one folder of files that link to each other."""
