"""From the compiled graph to the records of an artifact: groups, memory plan, bit layouts."""
