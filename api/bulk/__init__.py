"""One command on many tickets."""
