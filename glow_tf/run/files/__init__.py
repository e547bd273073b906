"""What a run keeps in its workdir, and how it is read again."""
