"""Names of people who do not exist: first names and surnames from many countries, joined at random."""

from __future__ import annotations

from diffembed.evaluation.generated.draws import Draws

_FIRST = """
Adela Ahmed Aiko Alberto Alina Amara Anders Anika Anton Arturo Astrid Aylin Beatriz Benno Bianca Bogdan Brigitte
Carmen Cedric Chiara Clemens Dalia Damian Daria Dimitri Dorota Edgar Elena Elias Emeka Enzo Esther Farid Felicia
Fergus Finn Flavia Gideon Greta Gustav Hamza Hanna Hector Helga Hiroshi Ida Igor Imogen Ingrid Isaac Ivana Jakob
Jamila Jasper Joana Jonas Julius Kamal Karin Kasper Katja Kenji Kirsten Lamar Larissa Leandro Leona Lidia Linus
Lorenzo Lucia Magnus Malika Marek Marisol Matilda Milan Mireille Nadia Nestor Nikolai Nora Octavio Odette Olaf Olga
Oscar Paloma Pascal Petra Quentin Rahel Ramon Renata Roland Rosalia Ruben Sabine Samir Selma Silvio Simone Stefan
Sunita Tamara Tariq Teresa Thea Tobias Ursula Valentin Vera Viktor Wanda Wilhelm Xenia Yara Yusuf Zelda Zoran
"""
_LAST = """
Abara Albrecht Almeida Andersen Arriaga Aydin Bakker Balogun Barros Bergmann Bianchi Blomqvist Borges Brandt Cabrera
Carvalho Castellano Cermak Chaudhry Clausen Corrigan Dahlberg Dabrowski Delacroix Demir Dietrich Dimitrov Duarte
Eberhardt Eklund Engelmann Escobar Fairbanks Farouk Fontaine Fujita Galanis Gallagher Garrido Gerber Goldberg
Grabowski Gunnarsson Haddad Halvorsen Hartmann Hernandez Hoffmann Horvath Ibarra Ivanov Jankowski Jensen Kaminski
Karlsson Kimura Kowalczyk Kruger Laurent Lehtinen Lindholm Lombardi Lukacs Machado Makinen Marchetti Marinova Matsuda
McAllister Mendoza Moreau Nakagawa Navarro Nielsen Novotny Nyberg Oduya Okafor Oliveira Orlova Ostrowski Papadakis
Paredes Pellegrini Petrov Quiroga Rahman Ramirez Ravn Reinhardt Ribeiro Rossetti Saarinen Salazar Santoro Schneider
Serrano Sokolov Steiner Sundstrom Szabo Takahashi Tavares Thorvald Tkachenko Urbano Valdez Vandermeer Vasquez
Villanueva Wagner Weissman Whitlock Yamamoto Yilmaz Zambrano Zimmermann
"""


def people(draws: Draws, count: int) -> list[str]:
    """``count`` different names, first name and surname.

    >>> people(Draws("people", 0), 3)
    ['Emeka Ostrowski', 'Stefan Nakagawa', 'Hamza Rossetti']
    """
    pairs = [f"{first} {last}" for first in _FIRST.split() for last in _LAST.split()]
    return draws.shuffled(pairs)[:count]
