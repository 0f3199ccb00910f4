"""The words of the house: types, errors, configuration and the one door every method goes through."""
