"""A FAISS index over trained centers: filled with copies, searched by budget, grown."""
