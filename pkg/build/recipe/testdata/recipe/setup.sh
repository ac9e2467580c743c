# a file of the tests
