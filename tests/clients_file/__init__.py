"""Tests of service/clients_file: the format, its mistakes, and the file while a relay runs."""
