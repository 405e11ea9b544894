"""Tests of tagmask.io."""
