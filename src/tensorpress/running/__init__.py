"""What surrounds a job: device, precision, memory, processes, records."""
