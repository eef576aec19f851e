"""TVM's Relax: read a function into our Graph, run it, write plans into it."""
